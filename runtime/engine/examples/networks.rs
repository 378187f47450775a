use sedge_engine::*;
struct R(u64);
impl R { fn next(&mut self)->u64{ self.0^=self.0<<13; self.0^=self.0>>7; self.0^=self.0<<17; self.0 } }
struct B { g: Graph, r: R }
impl B {
  fn q(&mut self)->Quantization{ Quantization{scale:0.02, zero_point: 128} }
  fn conv(&mut self, x: ValueId, k: usize, s: usize, oc: usize, groups: usize, relu: bool)->ValueId{
    let d=self.g.values[x.0].dims; let p=(k-1)/2;
    // TF-like "same"
    let oh=d.h.div_ceil(s); let need=((oh-1)*s+k).saturating_sub(d.h); let top=need/2; let _=p;
    let w=Window{kernel:[k,k],stride:[s,s],dilation:[1,1],pads:Pads{top,left:top,bottom:need-top,right:need-top}};
    let ic=d.c/groups; let n=oc*k*k*ic;
    let c=Conv{window:w,groups,weights:(0..n).map(|_|self.r.next() as i8).collect(),scales:vec![0.001;oc],bias:vec![5;oc],range: if relu {Range{low:128,high:255}} else {Range::FULL}};
    let q=self.q(); let o=self.g.value("v",Dims::new(1,oh,d.w.div_ceil(s),oc),q);
    let name=format!("{}x{} s{} {}x{}x{}->{}{}",k,k,s,d.h,d.w,d.c,oc,if groups>1{" dw"}else{""});
    self.g.node(&name,Op::Conv(c),&[x],o); o }
  fn add(&mut self,a:ValueId,b:ValueId)->ValueId{ let d=self.g.values[a.0].dims; let q=self.q(); let o=self.g.value("v",d,q); self.g.node(&format!("add {}x{}x{}",d.h,d.w,d.c),Op::Add(Range::FULL),&[a,b],o); o}
  fn gap(&mut self,a:ValueId)->ValueId{ let d=self.g.values[a.0].dims; let q=self.q(); let o=self.g.value("v",Dims::new(1,1,1,d.c),q); self.g.node("gap",Op::AveragePool{window:Window{kernel:[d.h,d.w],stride:[1,1],dilation:[1,1],pads:Pads::default()},include_pads:false},&[a],o); o}
  fn maxpool(&mut self,a:ValueId)->ValueId{ let d=self.g.values[a.0].dims; let q=self.q(); let o=self.g.value("v",Dims::new(1,d.h/2,d.w/2,d.c),q); self.g.node("maxpool",Op::MaxPool(Window{kernel:[3,3],stride:[2,2],dilation:[1,1],pads:Pads{top:0,left:0,bottom:1,right:1}}),&[a],o); o}
}
fn net(name:&str)->Graph{
  let mut b=B{g:Graph::default(),r:R(0x1234567)};
  let q=b.q(); 
  let dims = match name { "ad"=>Dims::new(1,1,1,640), "vww"=>Dims::new(1,96,96,3), "kws"=>Dims::new(1,25,5,64), _=>Dims::new(1,224,224,3)};
  let x=b.g.value("in",dims,q); b.g.inputs.push(Port{value:x,element:Element::I8,order:Port::CHANNELS_LAST});
  let out = match name {
   "mobilenetv2"=>{ let mut x=b.conv(x,3,2,32,1,true);
     let mut c=32;
     for (t,oc,n,s) in [(1,16,1,1),(6,24,2,2),(6,32,3,2),(6,64,4,2),(6,96,3,1),(6,160,3,2),(6,320,1,1)] { for i in 0..n { let s=if i==0{s}else{1}; let inp=x; let mut h=x; if t>1 {h=b.conv(h,1,1,c*t,1,true);} h=b.conv(h,3,s,c*t,c*t,true); h=b.conv(h,1,1,oc,1,false); x= if s==1 && c==oc {b.add(inp,h)} else {h}; c=oc; } }
     let x=b.conv(x,1,1,1280,1,true); let x=b.gap(x); b.conv(x,1,1,1000,1,false) }
   "resnet50"=>{ let x=b.conv(x,7,2,64,1,true); let mut x=b.maxpool(x);
     for (i,(n,m)) in [(3,64),(4,128),(6,256),(3,512)].into_iter().enumerate() { for j in 0..n { let s=if j==0&&i>0{2}else{1}; let h=b.conv(x,1,1,m,1,true); let h=b.conv(h,3,s,m,1,true); let h=b.conv(h,1,1,m*4,1,false); let sc=if j==0 {b.conv(x,1,s,m*4,1,false)} else {x}; x=b.add(h,sc);} }
     let x=b.gap(x); b.conv(x,1,1,1000,1,false)}
   "ad"=>{ let mut x=x; for c in [128,128,128,128,8,128,128,128,128,640]{ x=b.conv(x,1,1,c,1,true);} x}
   "vww"=>{ let mut x=b.conv(x,3,2,8,1,true); let mut c=8; for (oc,s) in [(16,1),(32,2),(32,1),(64,2),(64,1),(128,2),(128,1),(128,1),(128,1),(128,1),(128,1),(256,2),(256,1)] { x=b.conv(x,3,s,c,c,true); x=b.conv(x,1,1,oc,1,true); c=oc;} let x=b.gap(x); b.conv(x,1,1,2,1,false)}
   _=>{ let mut x=x; for _ in 0..4 { x=b.conv(x,3,1,64,64,true); x=b.conv(x,1,1,64,1,true);} let x=b.gap(x); b.conv(x,1,1,12,1,false)}
  };
  b.g.outputs.push(Port{value:out,element:Element::I8,order:Port::CHANNELS_LAST}); b.g }
fn main(){
  for name in std::env::args().nth(1).unwrap_or("mobilenetv2,resnet50,ad,vww,kws".into()).split(',') {
    let g=net(name); let t=std::time::Instant::now(); let p=Program::compile(&g,&Options::from_environment()).unwrap(); let ct=t.elapsed();
    let mut s=p.session(); let n=p.input_bytes().next().unwrap(); let input:Vec<u8>=(0..n).map(|i|(i*37%251) as u8).collect();
    let mut out=vec![0u8;p.output_bytes().next().unwrap()];
    let mut best=f64::MAX; let mut all=vec![]; let t=std::time::Instant::now();
    while t.elapsed().as_secs_f64()<1.0 { let t=std::time::Instant::now(); p.run(&mut s,&[&input],&mut [&mut out]).unwrap(); let e=t.elapsed().as_secs_f64(); best=best.min(e); all.push(e);}
    all.sort_by(f64::total_cmp);
    println!("{name} [{}] best {:.1} us median {:.1} us, compile {:?}, packed {} KB arena {} KB", p.isa(), best*1e6, all[all.len()/2]*1e6, ct, p.memory_bytes().0/1024, p.memory_bytes().1/1024);
    if std::env::args().nth(2).is_some() { let pr=p.profile(&mut s,&[&input],30).unwrap(); let total:f64=pr.iter().map(|t|t.time.as_secs_f64()).sum(); 
      for t in &pr { println!("  {:>8.1} us {:>5.1}% {:>7.1} GMAC/s {} {}", t.time.as_secs_f64()*1e6, t.time.as_secs_f64()/total*100.0, t.products as f64/t.time.as_secs_f64()/1e9, t.kind,t.name);} }
  }
}
